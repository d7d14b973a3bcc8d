FROM base
RUN --mount=type=bind,source=no-such,target=/x true
#: refused
