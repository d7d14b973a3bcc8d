FROM base
EXPOSE 90-80
#: refused
