"""The sentences of licenses that a license file is known by, each with a copyright line."""

APACHE = """
                                 Apache License
                           Version 2.0, January 2004

   2. Grant of Copyright License. Subject to the terms and conditions of
      this License, each Contributor hereby grants to You a license.
"""
MIT = """The MIT License (MIT)

Copyright (c) 2015 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell.
"""
BSD_2 = """Copyright (c) 2009 Somebody. All rights reserved.

Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are
met: both notices are kept.
"""
BSD_3 = f"""{BSD_2}
   * Neither the name of Somebody nor the names of its
contributors may be used to endorse or promote products derived from
this software without specific prior written permission.
"""
ISC = """ISC License

Copyright (c) 2012 Somebody

Permission to use, copy, modify, and/or distribute this software for any
purpose with or without fee is hereby granted, provided that the above
copyright notice and this permission notice appear in all copies.
"""
MPL = """Mozilla Public License, version 2.0

  This Source Code Form is subject to the terms of the Mozilla Public
  License, v. 2.0. If a copy of the MPL was not distributed with this file...
"""
