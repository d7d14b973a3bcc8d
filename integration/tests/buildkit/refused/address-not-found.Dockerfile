FROM base
ARG SERVER
ADD $SERVER/no-such /x
#: arg SERVER={server}
#: refused
