FROM base
ONBUILD ONBUILD RUN true
#: refused
