FROM base
LABEL a=file b=file
#: label a=given
#: label z=last
