FROM base
VOLUME ""
#: refused
