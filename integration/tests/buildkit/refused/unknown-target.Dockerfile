FROM base
#: target nowhere
#: refused
