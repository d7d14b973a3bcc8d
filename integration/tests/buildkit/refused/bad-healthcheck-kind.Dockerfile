FROM base
HEALTHCHECK PING x
#: refused
