FROM base
HEALTHCHECK --interval=5 CMD true
#: refused
