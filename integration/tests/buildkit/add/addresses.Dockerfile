FROM base
ARG SERVER SUM
ADD $SERVER/file.txt /new/
ADD $SERVER/file.txt /as
ADD $SERVER/dir/file.txt?query=1 /query/
ADD $SERVER/packed.tar.gz /archive/
ADD --unpack=true $SERVER/packed.tar.gz /unpacked/
ADD --chown=app:staff --chmod=0644 $SERVER/file.txt /owned
ADD --checksum=$SUM $SERVER/file.txt /checked
ADD $SERVER/file.txt a.txt /mixed/
ADD --link $SERVER/file.txt /linked/
ADD $SERVER/moved /moved/
ADD $SERVER/named /named/
#: arg SERVER={server}
#: arg SUM={sum}
#: times /new/file.txt
#: times /as
#: times /unpacked/p
