FROM base
USER
#: refused
