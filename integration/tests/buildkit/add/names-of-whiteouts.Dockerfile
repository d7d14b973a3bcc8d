FROM base
ADD archives/whiteout.tar /opt/data
