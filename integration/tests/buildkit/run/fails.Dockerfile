FROM base
RUN exit 3
#: refused
