# escape=x
FROM base
#: refused
