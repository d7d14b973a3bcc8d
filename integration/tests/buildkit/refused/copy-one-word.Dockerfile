FROM base
COPY a.txt
#: refused
