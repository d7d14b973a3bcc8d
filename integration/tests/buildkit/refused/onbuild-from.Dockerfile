FROM base
ONBUILD FROM scratch
#: refused
