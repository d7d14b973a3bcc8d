FROM base
RUN --network=host true
