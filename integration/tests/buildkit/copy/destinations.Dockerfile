FROM base
COPY a.txt /file
COPY a.txt /new/dir/
COPY a.txt b.txt /two/
COPY a.txt /opt
COPY a.txt /opt/data/a
COPY dir /as-dir
COPY dir /in-dir/
COPY dir/ /slashed
COPY dir/. /dot
COPY . /all
WORKDIR /w
COPY a.txt .
COPY a.txt ./sub/
COPY a.txt ../up
COPY dir rel
COPY ./dir/f1 ./dir//sub/../f1 ./
COPY ["with space.txt", "grün.txt", "/names/"]
COPY ["with space.txt", "/a dest/"]
COPY /a.txt /rooted
COPY ../../a.txt /outside
