FROM base
EXPOSE 80/tcp/x
#: refused
