FROM base
RUN --network=bridge true
#: refused
