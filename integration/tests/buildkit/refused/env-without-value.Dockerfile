FROM base
ENV A
#: refused
