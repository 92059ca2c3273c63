from pack.age import *
