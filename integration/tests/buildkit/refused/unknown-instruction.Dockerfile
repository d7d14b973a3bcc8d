FROM base
RUNN true
#: refused
