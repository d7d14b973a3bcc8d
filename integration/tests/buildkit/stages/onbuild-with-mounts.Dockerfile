FROM base AS parent
ONBUILD RUN --mount=type=bind,target=/ctx cp /ctx/b.txt /b
ONBUILD RUN <<EOT
echo heredoc > /h
EOT
ONBUILD COPY <<EOT /inline
content
EOT
FROM parent
CMD ["x"]
