FROM base
COPY --link a.txt /a/b/c/
COPY --link dir /opt/data
COPY --link a.txt b.txt /opt/sgid/
COPY --link --chown=12:34 dir /owned/
COPY --link --chown=7 a.txt /opt/new/deep/file
COPY --link a.txt /opt/data/a
COPY --link --from=base /opt/one /opt/two /linked/
COPY --link <<EOT /inline
text
EOT
WORKDIR /w
COPY --link a.txt rel
ADD --link archives/plain.tar /unpacked/
