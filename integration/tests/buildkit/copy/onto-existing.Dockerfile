FROM base
RUN chmod 0750 /opt/data && chown 1000:50 /opt/data && mkdir /opt/data/keep
COPY over/data /opt/data
COPY over/ /opt/link/../
COPY over/data/a /opt/data/deep
COPY --chmod=0700 over/data /opt/sgid
COPY a.txt /opt/two
RUN mkdir /m && chmod 0700 /m && chown 7:50 /m
COPY dir/sub /m
COPY --chown=app dir/sub /m/
