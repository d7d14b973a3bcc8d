FROM base
LABEL a=${A:x}
#: refused
