FROM base
COPY --parents ../../nowhere /x/
#: refused
