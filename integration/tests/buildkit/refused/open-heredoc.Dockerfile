FROM base
RUN <<EOT
echo
#: refused
