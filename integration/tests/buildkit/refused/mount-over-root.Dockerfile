FROM base
RUN --mount=type=bind,target=/ true
#: refused
