RUN true
#: refused
