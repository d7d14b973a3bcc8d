FROM base
COPY [a /x/
#: refused
