FROM extra
COPY a.txt /more
LABEL x=y
#: context extra=dir
