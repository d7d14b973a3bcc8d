FROM --platform=what/is/this/now base
#: refused
