FROM base
RUN --mount=type=cache,target=/x,sharing=sometimes true
#: refused
