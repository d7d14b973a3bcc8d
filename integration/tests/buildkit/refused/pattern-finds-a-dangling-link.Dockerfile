FROM base
COPY dir/b* /below/
#: refused
