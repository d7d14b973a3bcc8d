FROM base
RUN --mount=type=secret,id=missing,required true
#: refused
