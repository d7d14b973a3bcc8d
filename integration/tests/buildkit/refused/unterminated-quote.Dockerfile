FROM base
LABEL a="b
#: refused
