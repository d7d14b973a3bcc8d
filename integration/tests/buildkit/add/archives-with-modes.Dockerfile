FROM base
ADD --chmod=0600 archives/gz.tar.gz /mode
ADD --chmod=0700 a.txt /b/a
ADD --chown=1:2 --chmod=0750 archives/plain.tar /both/
