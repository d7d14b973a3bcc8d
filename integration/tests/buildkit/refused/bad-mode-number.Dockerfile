FROM base
COPY --chmod=9 a.txt /
#: refused
