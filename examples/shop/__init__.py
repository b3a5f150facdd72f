"""A shop of three services. Read `messages`, `ordering` and `payment`, in this order.

`demo` kills two of them while 830 orders flow, `chaos` kills all of them again and again; both let `audit` look
through the services' own books afterwards.
"""
