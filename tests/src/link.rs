//! What does a broker see that is not what it says? A raw link: any certificate, any bytes.
