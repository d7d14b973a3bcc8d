FROM base
RUN --mount=type=cache true
#: refused
