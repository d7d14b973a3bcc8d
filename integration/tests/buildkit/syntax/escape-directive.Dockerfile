# escape=`
FROM base
ENV A=a B=`$A C="x`"y" D='`' E=c:\dir\
RUN echo $A `
  && echo "\\ $E" > /e
COPY a.txt `
  b.txt `
  /to/
WORKDIR /back\slash
