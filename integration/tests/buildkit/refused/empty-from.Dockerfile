ARG NONE
FROM $NONE
#: refused
