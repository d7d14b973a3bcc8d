FROM base
COPY --from=base /opt/one /x
COPY <<EOT /y
inline
EOT
