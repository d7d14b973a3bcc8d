FROM base
COPY --chmod=rwx a.txt /
#: refused
