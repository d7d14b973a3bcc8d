FROM base
ARG SERVER
COPY $SERVER/file.txt /x
#: arg SERVER={server}
#: refused
