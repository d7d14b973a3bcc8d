FROM base
LABEL a=${A
#: refused
