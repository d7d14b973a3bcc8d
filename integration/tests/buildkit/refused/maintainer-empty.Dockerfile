FROM base
MAINTAINER
#: refused
