FROM base
COPY --what=1 a.txt /
#: refused
