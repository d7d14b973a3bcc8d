FROM base
HEALTHCHECK --interval=1us CMD true
#: refused
