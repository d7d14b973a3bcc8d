FROM base AS 1st
#: refused
