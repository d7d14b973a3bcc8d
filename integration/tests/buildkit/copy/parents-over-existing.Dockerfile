FROM base
COPY --parents over/./data/deep over/./data/new/n /opt/
COPY --parents dir/**/f* /r/
