FROM base
WORKDIR /opt/data
WORKDIR deep/er
WORKDIR /opt/link/new
WORKDIR /opt/absolute
WORKDIR /a//b/../c/.
USER app
WORKDIR /owned/by/app
WORKDIR /owned/more
USER 7:50
WORKDIR /numbers
USER guest:video
WORKDIR /names
USER 4242
WORKDIR /unknown
USER app
WORKDIR /
RUN pwd > /tmp/pwd
